"""The gate: what is admitted, refused, changed and recorded; configuration; the edge."""
