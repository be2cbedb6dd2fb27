"""Codecs of other papers: AQ-SGD, SplitLite, TAH-Quant."""
