"""The data engine: recordings to measured, levelled, explained and checked emotion data (`edge-emotion label`)."""
