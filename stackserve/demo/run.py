"""`stackserve demo`: serve the demo group, ask all its models one question at once, keep serving."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
from rich.console import Console
from rich.markup import escape

from stackserve.app import Gateway, Stop, run_until_stopped
from stackserve.configfile import load_settings
from stackserve.console import console, show_start
from stackserve.control.states import DeploymentState
from stackserve.demo.behaviours import BEHAVIOURS
from stackserve.demo.configs import packaged_config
from stackserve.serve import open_server

DEFAULT_PORT = 8000
MAX_TOKENS = 64
ANSWER_SECONDS = 300
"""Generous: the first answers of a cold engine on a slow machine."""

TITLES = {"base": "the base model"} | {each.key: each.title for each in BEHAVIOURS}

SNIPPETS = """
[bold]Ask it yourself[/] (model: {keys})

[dim]# curl[/]
curl {url}/chat/completions -H 'content-type: application/json' \\
  -d '{{"model": "pirate", "messages": [{{"role": "user", "content": "Who are you?"}}]}}'

[dim]# Python, with the openai package[/]
from openai import OpenAI
client = OpenAI(base_url="{url}", api_key="unused")
for chunk in client.chat.completions.create(
    model="pirate", stream=True, messages=[{{"role": "user", "content": "Who are you?"}}]
):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
"""


@dataclass(frozen=True)
class Answer:
    """What one model said, and which weights said it."""

    key: str
    text: str
    adapter_sha256: str


async def run_demo(
    *, once: bool, question: str, host: str | None, port: int | None, log_level: str, verbose: bool
) -> int:
    """Print the answers of all models; then serve until Ctrl-C, or exit: 0 only if all came."""
    file = packaged_config("demo.yaml")
    host = host or "127.0.0.1"
    if port is None:
        port = 0 if once else _free_port(host, DEFAULT_PORT)
    settings = load_settings(file, [f"server.host={json.dumps(host)}", f"server.port={port}"])
    async with open_server(settings, file, log_level=log_level, verbose=verbose) as gateway:
        stop = Stop.by_signals()
        url = f"http://{f'[{host}]' if ':' in host else host}:{gateway.port}/v1"
        console.print(f"listening on {url}")
        working = asyncio.create_task(_ask_when_ready(gateway, url, question))
        serving = asyncio.create_task(
            run_until_stopped(gateway, settings.server.drain_seconds, stop)
        )
        await asyncio.wait((working, serving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            return 130
        complete = working.result()
        if once or not complete:
            stop.first.set()
        else:
            _print_snippets(url)
        await serving
    return 0 if complete else 1


async def ask_all(url: str, keys: Sequence[str], question: str) -> list[Answer | None]:
    """Ask every key at once, so that the engine answers them in one mixed batch; None is a failure."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        return await asyncio.gather(*(_ask(session, url, key, question) for key in keys))


async def _ask(session: aiohttp.ClientSession, url: str, key: str, question: str) -> Answer | None:
    request = {
        "model": key,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
    try:
        async with session.post(f"{url}/chat/completions", json=request) as response:
            body = await response.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        console.print(f"[red]{key}: no answer: {escape(repr(error))}")
        return None
    if response.status != 200:
        console.print(f"[red]{key}: {escape(str(body['error']['message']))}")
        return None
    text = body["choices"][0]["message"]["content"]
    return Answer(key, text, response.headers["x-stackserve-adapter-sha256"])


async def _ask_when_ready(gateway: Gateway, url: str, question: str) -> bool:
    (status,) = await show_start(gateway)
    if status.state is not DeploymentState.READY:
        return False
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"\n[bold]{escape(question)}[/]  (all models in one batch)\n")
    answers = await ask_all(url, list(TITLES), question)
    for answer in answers:
        if answer is not None:
            weights = (
                f"adapter {answer.adapter_sha256[:8]}" if answer.key != "base" else "no adapter"
            )
            out.print(f"[bold cyan]{answer.key:>8}[/]  [dim]{TITLES[answer.key]}, {weights}[/]")
            out.print(f"          {escape(answer.text.strip())}\n")
    return None not in answers


def _print_snippets(url: str) -> None:
    out = Console(highlight=False, soft_wrap=True)
    out.print(SNIPPETS.format(url=url, keys=", ".join(TITLES)))
    out.print(f"[green]Serving on {url} until Ctrl-C.")


def _free_port(host: str, wanted: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError:
            return 0
    return wanted
