"""The data port between nodes: who may ask (`auth`), what is said (`wire`), who answers (`port`) and who asks (`client`)."""
