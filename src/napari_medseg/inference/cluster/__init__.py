"""The same run on other processes: workers of a Dask cluster, here or elsewhere."""
