"""Paper-scale runs: methods × metrics over a data set, on the cores or GPUs of one machine or of many.

`python -m cambook evaluate --recipe polycam-vgg16`. A run is cut into shards (`shards`), each one method on a
few pictures (`datasets`), which Dask spreads over its workers (`cluster`). A finished shard is a file, so
that an interrupted run goes on where it was (`run`); at the end the files become tables and figures
(`results`). What a run is made of is a `plan`; `recipes/` holds those of the papers.
"""
