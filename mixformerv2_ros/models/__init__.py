"""Model bundles that come with the package."""
