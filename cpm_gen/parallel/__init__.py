"""The tensor-parallel group as an object, and how its ranks are started."""
