"""The only builder of dask graphs: runs, moments and maps as arrays, computed when asked."""
