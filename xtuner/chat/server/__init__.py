"""Models behind an HTTP interface that OpenAI's clients speak.

request  ->  limits (key, size)  ->  app  ->  prompts: messages to ids  ->  scheduler, one thread
answer   <-  JSON or a stream of events   <-  tool_calls: text and calls separated   <-  batch: many rows

serve    loads the model, takes the port and runs all of it until it is stopped
"""
