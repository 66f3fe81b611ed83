"""The service: HTTP in front of one loaded model. ``docs/service.md`` is its manual, ``cpm_gen.server.run`` its main program."""
