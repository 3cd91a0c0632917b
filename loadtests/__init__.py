"""How fast, how big, against whom: reproducible measurements of streamgate beside its peers. See README.md."""
