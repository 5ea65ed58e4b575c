"""From a trained checkpoint to a bundle: graphs, quantisation, parity gates, golden taps."""
