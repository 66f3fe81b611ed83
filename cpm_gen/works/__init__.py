"""Long texts as durable jobs, which survive the process that writes them. Knows no HTTP."""
