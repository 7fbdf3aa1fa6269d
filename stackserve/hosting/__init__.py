"""Models of other frameworks, as the gateway keeps them: loaded on demand under a budget of bytes, in
supervised workers. Nothing here imports a framework.
"""
