"""A run's whole detector as one program, for runtimes that know neither torch's modules nor this package."""
