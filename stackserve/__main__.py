"""`python -m stackserve`."""

from stackserve.cli import main

raise SystemExit(main())
