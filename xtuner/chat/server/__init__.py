"""An HTTP server for models, compatible with OpenAI's clients.

request  ->  limits (key, size)  ->  app  ->  prompts: messages to ids  ->  scheduler, one thread
answer   <-  JSON or a stream of events   <-  tool_calls: text and calls separated   <-  batch: many rows

serve    loads the model, binds the port and runs the server until it is stopped
"""
