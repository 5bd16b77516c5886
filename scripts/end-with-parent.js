// Preloaded into what the scripts start: when the parent is gone, however it ended, so are we.
process.once("disconnect", () => process.kill(process.pid, "SIGTERM"))
process.channel?.unref()
