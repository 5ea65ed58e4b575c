"""What runs a bundle on a device: the audio encoder, the language model, and the analyzer that joins them.

Importing this package imports none of the libraries underneath; each is imported in one module, when it is chosen.
"""
