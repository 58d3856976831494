"""Read files as rows: strictly, in one pass, with bounded memory. A row that cannot be read is rejected with a reason.

`rows` defines a row and a rejected row, `streams` opens and decompresses files, `lines` cuts text into rows, `decode`
reads one row's JSON, `columns` reads Parquet and folders of the `datasets` library. No later step reads the raw file.
"""

from expectations.reading.files import MAX_LINE_BYTES, glob_files, holds_rows, is_readable, read_raw_rows
from expectations.reading.lane import Lane
from expectations.reading.rows import FILE_CODES, RAW_CHARS, READ_BATCH, RawRow, Rejected, Source, escape

__all__ = [
    "FILE_CODES",
    "MAX_LINE_BYTES",
    "RAW_CHARS",
    "READ_BATCH",
    "Lane",
    "RawRow",
    "Rejected",
    "Source",
    "escape",
    "glob_files",
    "holds_rows",
    "is_readable",
    "read_raw_rows",
]
