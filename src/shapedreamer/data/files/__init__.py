"""Images read from files: MNIST, sprite sets, your own folder; and how they are downloaded."""
