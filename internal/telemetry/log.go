// Package telemetry makes the process's logger and bridges the Kubernetes libraries' loggers to it, once.
package telemetry

import (
	"io"
	"log/slog"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// NewLogger returns a logger of text lines. It is given to constructors, never stored globally.
func NewLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// Bridge sends what the Kubernetes libraries log through klog to the logger, as warnings and errors only: their
// informational lines describe their inner workings. To be called once per process.
func Bridge(log *slog.Logger) {
	klog.SetLogger(Logr(log))
}

// Logr is the logger as Kubernetes' libraries take it, for warnings and errors only, as with Bridge.
func Logr(log *slog.Logger) logr.Logger {
	return logr.FromSlogHandler(&atLeast{Handler: log.Handler(), level: slog.LevelWarn})
}
