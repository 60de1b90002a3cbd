package replay

import (
	"context"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

func (t *labTarget) startDNS(ctx context.Context, d *v1alpha1.Drill) error {
	return nil
}

func (t *labTarget) startAgents(ctx context.Context) error {
	return nil
}
