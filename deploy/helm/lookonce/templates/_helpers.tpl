{{- define "lookonce.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "lookonce.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else if contains (include "lookonce.name" .) .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "lookonce.name" .) | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "lookonce.selector" -}}
app.kubernetes.io/name: {{ include "lookonce.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lookonce.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "lookonce.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "lookonce.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "lookonce.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "lookonce.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The claim of the model cache, or nothing where it is a folder of the pod. */}}
{{- define "lookonce.modelClaim" -}}
{{- with .Values.modelCache -}}
{{- if .existingClaim -}}{{ .existingClaim }}
{{- else if .persistent -}}{{ include "lookonce.fullname" $ }}-models
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A setting as the server reads it from the environment. Helm's numbers are floats, which Go would write as 6.7e+07. */}}
{{- define "lookonce.text" -}}
{{- if kindIs "string" . -}}{{ . }}
{{- else if kindIs "slice" . -}}{{ join "," . }}
{{- else -}}{{ toJson . }}
{{- end -}}
{{- end -}}

{{/* Prometheus' labels of this release, as a ServiceMonitor sets them. */}}
{{- define "lookonce.series" -}}
namespace="{{ .Release.Namespace }}",service="{{ include "lookonce.fullname" . }}"
{{- end -}}

{{/* Seconds that a startup may take. */}}
{{- define "lookonce.startupSeconds" -}}
{{- with .Values.probes.startup -}}
{{- mul (int .periodSeconds) (int .failureThreshold) -}}
{{- end -}}
{{- end -}}

{{/* "true" where there may be several replicas. */}}
{{- define "lookonce.isSeveral" -}}
{{- if eq .Values.autoscaling.kind "none" -}}
{{- if gt (int .Values.replicaCount) 1 -}}true{{- end -}}
{{- else if gt (int .Values.autoscaling.maxReplicas) 1 -}}true
{{- end -}}
{{- end -}}

{{/* Refuse values that do not go together. */}}
{{- define "lookonce.check" -}}
{{- if not (or .Values.apiKeys.existingSecret .Values.allowAnyone) -}}
{{- fail "Nobody may ask: give apiKeys.existingSecret, a Secret with the file of API keys (`lookonce new-key` makes one), or set allowAnyone: true if something in front of the server decides who may ask." -}}
{{- end -}}
{{- if and .Values.apiKeys.existingSecret .Values.allowAnyone -}}
{{- fail "apiKeys.existingSecret and allowAnyone: true: give one of them." -}}
{{- end -}}
{{- if and (include "lookonce.isSeveral" .) (not .Values.store.existingSecret) -}}
{{- fail "Several replicas need a Redis, or none finds the contexts and responses of another: give store.existingSecret, a Secret with its URL." -}}
{{- end -}}
{{- if and (include "lookonce.isSeveral" .) .Values.modelCache.persistent (not .Values.modelCache.existingClaim) (hasPrefix "ReadWriteOnce" .Values.modelCache.accessMode) -}}
{{- fail (printf "modelCache.accessMode: %s: several replicas share the volume from several nodes: use ReadWriteMany, or persistent: false." .Values.modelCache.accessMode) -}}
{{- end -}}
{{- if and (eq .Values.autoscaling.kind "HorizontalPodAutoscaler") (not .Values.prometheusRule.enabled) -}}
{{- fail "autoscaling.kind: HorizontalPodAutoscaler scales by a metric of the chart's recording rule: set prometheusRule.enabled: true." -}}
{{- end -}}
{{- if and (eq (toString .Values.strategy.maxSurge) "0") (eq (toString .Values.strategy.maxUnavailable) "0") -}}
{{- fail "strategy: maxSurge and maxUnavailable are both 0, so no pod could be replaced." -}}
{{- end -}}
{{- if lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas) -}}
{{- fail "autoscaling.maxReplicas is less than autoscaling.minReplicas." -}}
{{- end -}}
{{- end -}}
