"""What writes to a file: the writers of numpy, pandas, pyarrow and polars, in the same list."""

import gzip
import io
from typing import Any, Final

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv  # type: ignore[import-untyped]
import pyarrow.feather  # type: ignore[import-untyped]
import pyarrow.orc  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from tests.support.writers import (
    DATA,
    NUMBERS,
    TEXT,
    WRITERS,
    as_text,
    in_tar,
    in_zip,
    meaning_of,
    utf_16,
    writes,
)

__all__ = ["WRITERS", "meaning_of"]

FRAME: Final = pd.DataFrame(
    {"name": ["ä", "ö", "ü"] * 5000, "n": range(15_000), "x": np.linspace(0, 1, 15_000)}
)


def in_table(data: bytes) -> object:
    """The rows of a Parquet file."""
    return pyarrow.parquet.read_table(io.BytesIO(data)).to_pydict()


# -- numpy -----------------------------------------------------------------------------------------


@writes()
def numpy_save(file: Any) -> None:
    np.save(file, NUMBERS)
    np.save(file, NUMBERS.T)
    np.save(file, np.array([{"an": "object"}]), allow_pickle=True)


@writes(in_zip)
def numpy_savez(file: Any) -> None:
    np.savez(file, NUMBERS, named=NUMBERS.T)


@writes(in_zip)
def numpy_savez_compressed(file: Any) -> None:
    np.savez_compressed(file, NUMBERS)


@writes()
def numpy_savetxt(file: Any) -> None:
    np.savetxt(file, NUMBERS[:50], fmt="%d", header="numbers")


@writes(lambda data: data.decode("utf-8" if b"\xc3\xb6" in data else "latin-1"))
def numpy_savetxt_takes_it_for_a_text_stream_to_which_no_encoding_applies(file: Any) -> None:
    np.savetxt(file, NUMBERS[:50], fmt="%d", header="größe", encoding="latin-1")


@writes()
def numpy_tofile(file: Any) -> None:
    NUMBERS.tofile(file)


# -- pandas ----------------------------------------------------------------------------------------


@writes()
def pandas_csv(file: Any) -> None:
    FRAME.to_csv(file)


@writes()
def pandas_csv_latin_1(file: Any) -> None:
    FRAME.to_csv(file, encoding="latin-1")


@writes(utf_16)
def pandas_csv_utf_16(file: Any) -> None:
    FRAME.to_csv(file, encoding="utf-16", index=False)


@writes(gzip.decompress)
def pandas_csv_gzip(file: Any) -> None:
    FRAME.to_csv(file, compression="gzip", encoding="latin-1")


@writes(in_zip)
def pandas_csv_zip(file: Any) -> None:
    FRAME.to_csv(file, compression={"method": "zip", "archive_name": "frame.csv"})


@writes()
def pandas_csv_bz2(file: Any) -> None:
    FRAME.to_csv(file, compression="bz2")


@writes()
def pandas_csv_xz(file: Any) -> None:
    FRAME.to_csv(file, compression="xz")


@writes(in_tar)
def pandas_csv_tar(file: Any) -> None:
    FRAME.to_csv(file, compression={"method": "tar", "archive_name": "frame.csv"})


@writes()
def pandas_json(file: Any) -> None:
    FRAME.to_json(file, orient="records", lines=True, force_ascii=False)


@writes(gzip.decompress)
def pandas_json_gzip(file: Any) -> None:
    FRAME.to_json(file, compression="gzip")


@writes()
def pandas_pickle(file: Any) -> None:
    FRAME.to_pickle(file)


@writes(gzip.decompress)
def pandas_pickle_gzip(file: Any) -> None:
    FRAME.to_pickle(file, compression="gzip")


@writes()
def pandas_parquet(file: Any) -> None:
    FRAME.to_parquet(file)


@writes()
def pandas_feather(file: Any) -> None:
    FRAME.to_feather(file)


@writes()
def pandas_orc(file: Any) -> None:
    FRAME.to_orc(file)


@writes()
def pandas_xml(file: Any) -> None:
    FRAME.head().to_xml(file, parser="etree")


@writes()
def pandas_html(file: Any) -> None:
    FRAME.head().to_html(as_text(file))


@writes()
def pandas_stata(file: Any) -> None:
    FRAME.to_stata(file, time_stamp=pd.Timestamp(2020, 1, 1).to_pydatetime(), version=118)


# -- pyarrow ---------------------------------------------------------------------------------------


def table() -> Any:
    """A table of three columns."""
    return pa.Table.from_pandas(FRAME)


@writes(in_table)
def arrow_parquet(file: Any) -> None:
    pyarrow.parquet.write_table(table(), file)


@writes(in_table)
def arrow_parquet_in_groups(file: Any) -> None:
    with pyarrow.parquet.ParquetWriter(file, table().schema) as writer:
        for batch in table().to_batches(max_chunksize=4000):
            writer.write_batch(batch)


@writes()
def arrow_stream(file: Any) -> None:
    with pa.ipc.new_stream(file, table().schema) as writer:
        writer.write_table(table())


@writes()
def arrow_file(file: Any) -> None:
    with pa.ipc.new_file(file, table().schema) as writer:
        writer.write_table(table())


@writes()
def arrow_feather(file: Any) -> None:
    pyarrow.feather.write_feather(table(), file, compression="uncompressed")


@writes()
def arrow_orc(file: Any) -> None:
    pyarrow.orc.write_table(table(), file)


@writes()
def arrow_csv(file: Any) -> None:
    pyarrow.csv.write_csv(table(), file)


@writes(gzip.decompress)
def arrow_compressed(file: Any) -> None:
    with pa.CompressedOutputStream(file, "gzip") as stream:
        stream.write(DATA)


# -- polars ----------------------------------------------------------------------------------------


@writes()
def polars_csv(file: Any) -> None:
    pl.DataFrame({"a": [1, 2], "b": ["ü", TEXT]}).write_csv(file)


@writes()
def polars_ndjson(file: Any) -> None:
    pl.DataFrame({"a": [1, 2], "b": ["ü", TEXT]}).write_ndjson(file)


@writes()
def polars_ipc(file: Any) -> None:
    pl.DataFrame({"a": range(50_000)}).write_ipc(file)


@writes(in_table)
def polars_parquet(file: Any) -> None:
    pl.DataFrame({"a": range(50_000)}).write_parquet(file)
