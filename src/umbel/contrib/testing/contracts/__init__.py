"""Contract suites: what a broker, a backend or a pool must keep, as test classes to subclass."""
