"""Encoders: the convolution cascade's blocks and MobileSAM."""
