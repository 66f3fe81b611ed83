"""An async service over one model, without HTTP.

::

    service = Service(ServeOptions(), ModelOptions())
    await service.load()
    spec = GenerationSpec(prompts=["从前"], sampling=SamplingParams(), text=TextOptions())
    result = await service.generate(spec)
    async for update in service.stream(spec):
        ...
    await service.drain(timeout=30)
    await service.close()

Every refusal is a :class:`~cpm_gen.serving.errors.ServiceError` with a code.
"""
