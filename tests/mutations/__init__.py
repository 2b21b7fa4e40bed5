"""Single lines of the product, each broken once, and the tests that catch it: a measure of the test suite."""
