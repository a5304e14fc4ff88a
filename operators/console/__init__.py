"""The console: a web application in which persons see whether models are fresh, good and safe, and act.

`app` has the routes, `pages` what each shows, `doors` who may see and do what, `desk` what is read from the log, `jobs`
the commands that actions run. Why it is made so: docs/decisions/0038-the-console.md.
"""
