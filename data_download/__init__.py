"""Fetches weights, data sets and photos, checked, whole or not at all: `python -m data_download`.

registry.toml   what there is: size, licence, checksum, sources
registry.py     reads it
transfer.py     one file from one source, by pooch
fetch.py        one file from several sources in their turn; then, for an archive, unpacked
unpack.py       archives into the data folder, and nowhere else
verify.py       is what lies in the data folder still what the registry says?
__main__.py     the command
"""


class DataError(Exception):
    """Something could not be had; the text is one sentence for the reader."""
