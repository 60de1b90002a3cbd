package peers

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// lines takes memberlist's log lines in. What is wrong is said once a minute for each kind: a peer with another key would
// fill the log.
type lines struct {
	log *slog.Logger
	m   *metrics

	mu   sync.Mutex
	said map[string]time.Time
	now  func() time.Time
}

// Enabled implements slog.Handler.
func (l *lines) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements slog.Handler.
func (l *lines) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements slog.Handler.
func (l *lines) WithGroup(string) slog.Handler { return l }

// Handle implements slog.Handler.
func (l *lines) Handle(_ context.Context, r slog.Record) error {
	l.take(r.Message)
	return nil
}

func (l *lines) take(text string) {
	if _, after, found := strings.Cut(text, "memberlist: "); found {
		bad := strings.Contains(text, "[ERR]") || strings.Contains(text, "[WARN]")
		if strings.Contains(after, "ecrypt") || strings.Contains(after, "not encrypted") || strings.Contains(after, "No installed keys") {
			l.m.refused.WithLabelValues(refusedKey).Inc()
			bad = true
		}
		kind, _, _ := strings.Cut(after, ":")
		if bad && l.first(kind) {
			l.log.Warn("Speaking with other gates", "problem", after)
			return
		}
		text = after
	}
	l.log.Debug("Speaking with other gates", "detail", text)
}

func (l *lines) first(kind string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if at, ok := l.said[kind]; ok && now.Sub(at) < time.Minute {
		return false
	}
	if len(l.said) > 100 {
		clear(l.said)
	}
	l.said[kind] = now
	return true
}
