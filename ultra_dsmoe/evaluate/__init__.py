"""One engine for every number: matches per image, mean average precision, intervals, paired comparisons, tables."""
