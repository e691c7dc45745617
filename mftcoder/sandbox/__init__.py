"""Running code that a model wrote: ``Sandbox`` contains it, or refuses."""
