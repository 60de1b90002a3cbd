package telemetry

import (
	"context"
	"log/slog"
)

// atLeast passes on records of its level and above.
type atLeast struct {
	slog.Handler
	level slog.Level
}

// Enabled implements slog.Handler.
func (h *atLeast) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.level && h.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (h *atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &atLeast{Handler: h.Handler.WithAttrs(attrs), level: h.level}
}

// WithGroup implements slog.Handler.
func (h *atLeast) WithGroup(name string) slog.Handler {
	return &atLeast{Handler: h.Handler.WithGroup(name), level: h.level}
}
