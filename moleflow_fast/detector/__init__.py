"""A finished run at work: images in, labels, scores, maps and regions out."""
