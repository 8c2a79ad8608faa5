"""One module per engine, pure: desired objects from a spec, status from what is observed. Empty until the control plane lands."""
