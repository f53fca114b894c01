"""`backlogtrace schema`: the JSON Schemas, for other programs.

Knows how to print them. Refuses to know what is in them.
"""

from __future__ import annotations

import click

from backlogtrace.cli.app import CONTEXT


@click.command(context_settings=CONTEXT, short_help="Print the JSON Schemas of output and host file.")
@click.argument("which", type=click.Choice(("jsonl", "host")), required=False)
def schema(which: str | None) -> None:
    """Print the JSON Schema of the JSON Lines output (jsonl) or of the host file (host).

    Without an argument both are printed in one object.
    """
    import json

    from backlogtrace.report.schema import SCHEMAS

    click.echo(json.dumps(SCHEMAS[which] if which else SCHEMAS, indent=1))
