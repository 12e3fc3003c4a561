"""Data sets that are read from files: MNIST, sprite sets, or a folder of your own images.

`mnist.load`, `folder.load` and `tiles.load` each return the training data and the held-out data. Read in this order:

    mnist       MNIST and Fashion-MNIST, from IDX files
    download    downloads with checksums and mirrors, which resume after an interruption
    npy         the arrays in .npy and .npz files that cannot be trusted
    folder      your own images: PNG, JPEG and the like, or NumPy files
    streaming   folders of images that are larger than memory
    tiles       small sprite data sets, from .npy or .npz files
    dcss        the tiles of Dungeon Crawl Stone Soup, and reading archives that cannot be trusted
"""
