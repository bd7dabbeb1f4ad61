"""What a report says, for tests: its tables by the heading above them."""

from collections.abc import Sequence

from moleflow_fast.report.document import Block, Bullets, Caution, Details, Heading, Table, Text


def under(blocks: Sequence[Block], heading: str) -> list[Block]:
    """Blocks from a heading to the next one, those to unfold too."""
    start = next(i for i, block in enumerate(blocks) if isinstance(block, Heading) and block.text == heading)
    found: list[Block] = []
    for block in blocks[start + 1 :]:
        if isinstance(block, Heading):
            break
        found += [block, *block.blocks] if isinstance(block, Details) else [block]
    return found


def table(blocks: Sequence[Block], heading: str) -> dict[str, dict[str, str]]:
    """Rows of all tables under a heading, by the column of labels: the first that holds no rank or number."""
    rows = {}
    for block in under(blocks, heading):
        if isinstance(block, Table):
            label = 1 if block.columns[0] in ("Rank", "No.") else 0
            rows.update({row[label]: dict(zip(block.columns, row, strict=True)) for row in block.rows})
    return rows


def prose(blocks: Sequence[Block], heading: str | None = None) -> str:
    """Sentences and bullets, of one section or of everything."""
    chosen = list(blocks) if heading is None else under(blocks, heading)
    lines = [block.text for block in chosen if isinstance(block, (Text, Caution))]
    return "\n".join([*lines, *(item for block in chosen if isinstance(block, Bullets) for item in block.items)])


def headings(blocks: Sequence[Block]) -> list[str]:
    return [block.text for block in blocks if isinstance(block, Heading)]
