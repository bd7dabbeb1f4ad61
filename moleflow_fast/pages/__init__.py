"""What the HTML pages share: how a template is found, the frame of a page, its style."""
