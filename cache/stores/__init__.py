"""One module a store kind, all behind `forebay.cache.stores.base.Store`."""
