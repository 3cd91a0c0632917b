"""What the user wrote: loaded, checked, compiled into one immutable snapshot, swapped whole."""
