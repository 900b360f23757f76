"""One institution's daemon: the pure core, and the shell that performs what it decides."""
