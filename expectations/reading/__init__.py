"""Files become rows: one streamed pass, bounded memory, strict. What cannot be read is rejected with place and reason.

`rows` says what a row and a rejected row are, `streams` opens and unpacks files, `lines` cuts text into rows, `decode`
reads one row's JSON, `columns` reads Parquet and folders of the `datasets` library. Nobody reads the raw file again
after this.
"""

from expectations.reading.files import MAX_LINE_BYTES, holds_rows, is_readable, read_rows
from expectations.reading.lane import Lane
from expectations.reading.rows import BATCH, FILE_CODES, RAW_CHARS, Rejected, Row, Source, escape

__all__ = [
    "BATCH",
    "FILE_CODES",
    "MAX_LINE_BYTES",
    "RAW_CHARS",
    "Lane",
    "Rejected",
    "Row",
    "Source",
    "escape",
    "holds_rows",
    "is_readable",
    "read_rows",
]
