"""Words and numbers of the host and of this package that several rooms need, torch-free ones among them."""

AUTO_TEACHER = "auto"  # for distill_model=: the student's own net, trained first
SPLITS = ("train", "val", "test")  # of a data set
MODES = ("gather", "static", "dense")  # in which a mixture of experts is computed, `dsmoe_moe=`
MIN_PIXELS = 32  # of an image: the largest stride of our model YAMLs
MAX_SEED = 2**32 - 1  # of the random generators
FINISHED = -1  # what the host writes as epoch of a checkpoint whose training is over
DRAWN_PIXELS = (96, 4096)  # least and most of a side of what the generated sets show
LETTERBOX_GRAY = 114  # of the bars around a resized image
