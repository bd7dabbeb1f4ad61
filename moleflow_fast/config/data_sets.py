"""Names of data sets, or of the layouts of their files; what reads each is in `moleflow_fast.data.layouts`."""

DEMO = "demo"  # written on the spot, as folders
FOLDER = "folder"
PUBLISHED = ("mvtec", "visa", "mpdd")
LISTS = ("csv", "coco", "datumaro", "real_iad")

DATASETS = (DEMO, *PUBLISHED, FOLDER, *LISTS)
LINE_DATASETS = (DEMO, FOLDER, *LISTS)  # learned as the preset `line` says, unless another preset is named
