"""An HTTP server for models, compatible with OpenAI's clients.

request  ->  limits (key, size)  ->  app  ->  prompts: messages to ids  ->  scheduler, one thread
answer   <-  JSON or a stream of events   <-  tool_calls: text and calls separated   <-  batch: many rows

serve    loads the model, binds the port and runs the server until it is stopped

Answers are English, errors and notices too, whatever language the server's own log has: a client may be
anybody, OpenAI's own server answers in English, and errors of fields are pydantic's, which has no other.
"""
