"""An async service over one model, without HTTP."""
