"""The subcommands of `medpact`, one module each; none is imported before it is used."""
