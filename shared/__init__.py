"""The job contract and the runtime that every service stands on; nothing of a service's own."""
