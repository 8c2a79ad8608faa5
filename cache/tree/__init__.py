"""The dataset's tree: names merged from several stores, listed, walked and kept fresh."""
