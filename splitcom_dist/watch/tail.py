"""New rows of a rank's log, as often as asked, while the rank writes them."""

import time
from pathlib import Path

import numpy as np

from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import check_extent, naming_damage, open_log, read_kept, whole_rows
from splitcom_dist.telemetry.schema import row_dtype
from splitcom_dist.telemetry.superblock import LogImage
from splitcom_dist.telemetry.versions import in_present_columns, version_of

ATTEMPTS, PAUSE_SECONDS = 5, 0.05  # a log that is being written may be met between two writes


class Tail:
    """Reads the wanted tables of one log from where it read last. The log need not be there yet."""

    def __init__(self, path: Path, tables: tuple[str, ...]) -> None:
        self.path = path
        self.tables = tables
        self.seen = 0.0  # when the log was last written to, in s since 1970-01-01 UTC
        self.closed: bool | None = None  # by its writer, cleanly (True) or after an error (False); None: it is open
        self.totals = np.zeros(0, np.int64)  # the rank's, as `Ledger.totals` has them
        self.fault = ""  # why it could not be read the last time
        self.began_anew = False  # the log is another one, or a shorter one, than the last time: of a run that goes on
        self._read = dict.fromkeys(tables, 0)
        self._file_id: tuple[int, int] | None = None

    def poll(self) -> dict[str, np.ndarray]:
        """The rows flushed since the last call, by table; none where the log cannot be read, `fault` says why."""
        self.fault, self.began_anew = "", False
        if not self.path.is_file():
            return {}
        for attempt in range(ATTEMPTS):
            try:
                return self._poll()
            except UserError as error:
                self.fault = str(error)
            if attempt < ATTEMPTS - 1:
                time.sleep(PAUSE_SECONDS)
        return {}

    def _poll(self) -> dict[str, np.ndarray]:
        status = self.path.stat()
        with LogImage(self.path) as image:
            is_open = not image.is_plain
        with open_log(self.path) as file, naming_damage(self.path):
            version, counts = version_of(self.path, file.attrs), whole_rows(file)
            file_id = (status.st_dev, status.st_ino)
            shorter = any(counts.get(table, 0) < count for table, count in self._read.items())
            self.began_anew = self._file_id is not None and (file_id != self._file_id or shorter)
            start = dict.fromkeys(self.tables, 0) if self.began_anew else self._read
            found = {}
            for table in self.tables:
                count = counts.get(table, 0)
                if is_open and count:
                    check_extent(self.path, file[table], count)
                rows = file[table][start[table] : count] if count else np.zeros(0, row_dtype(table))
                found[table] = in_present_columns(self.path, table, rows, version)
            clean = bool(file.attrs["closed_cleanly"])
        self.totals = read_kept(self.path)[1]
        self._read = {table: counts.get(table, 0) for table in self.tables}
        self._file_id, self.seen, self.fault = file_id, status.st_mtime, ""
        self.closed = None if is_open else clean
        return found
