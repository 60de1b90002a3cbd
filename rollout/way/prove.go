package way

import (
	"context"
	"errors"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Prove asks the API server by the break-glass way whether it may do all this. The error names every right that is missing.
func Prove(ctx context.Context, glass *rest.Config, rights []authorizationv1.ResourceAttributes) error {
	client, err := kubernetes.NewForConfig(glass)
	if err != nil {
		return fmt.Errorf("breakGlass: %w", err)
	}
	var errs []error
	for i := range rights {
		review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &rights[i]},
		}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("asking %s what breakGlass may do: %w", glass.Host, err)
		}
		if !review.Status.Allowed {
			errs = append(errs, fmt.Errorf("breakGlass may not %s", said(rights[i])))
		}
	}
	return errors.Join(errs...)
}

// said is a right in words: delete pods in telemetry.
func said(r authorizationv1.ResourceAttributes) string {
	text := r.Verb + " " + r.Resource
	if r.Group != "" {
		text += "." + r.Group
	}
	if r.Name != "" {
		text += " " + r.Name
	}
	if r.Namespace != "" {
		text += " in " + r.Namespace
	}
	return text
}
