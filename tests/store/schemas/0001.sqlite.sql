BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE artifacts (
	digest VARCHAR(64) NOT NULL, 
	kind VARCHAR(255) NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	folder TEXT, 
	facts JSON NOT NULL, 
	time_created DATETIME NOT NULL, 
	CONSTRAINT pk_artifacts PRIMARY KEY (digest)
);
INSERT INTO "artifacts" VALUES('abababababababababababababababababababababababababababababababab','BASE',1099511627776,NULL,'{"dtype": "f"}','2026-11-25 08:30:00.123000');
CREATE TABLE deployments (
	gateway VARCHAR(255) NOT NULL, 
	url VARCHAR(255) NOT NULL, 
	configuration JSON NOT NULL, 
	wanted_state VARCHAR(255) NOT NULL, 
	wanted_group_id VARCHAR(255) NOT NULL, 
	update_type VARCHAR(255), 
	group_id VARCHAR(255), 
	served_configuration JSON, 
	previous_group_id VARCHAR(255), 
	work_request_id VARCHAR(255), 
	model_states JSON NOT NULL, 
	project_id VARCHAR(255) NOT NULL, 
	id VARCHAR(255) NOT NULL, 
	compartment_id VARCHAR(255) NOT NULL, 
	display_name VARCHAR(255) NOT NULL, 
	description TEXT, 
	lifecycle_state VARCHAR(255) NOT NULL, 
	lifecycle_details TEXT NOT NULL, 
	created_by VARCHAR(255) NOT NULL, 
	time_created DATETIME NOT NULL, 
	time_updated DATETIME NOT NULL, 
	revision INTEGER NOT NULL, 
	freeform_tags JSON NOT NULL, 
	defined_tags JSON NOT NULL, 
	unused JSON NOT NULL, 
	CONSTRAINT pk_deployments PRIMARY KEY (id), 
	CONSTRAINT fk_deployments_group_id FOREIGN KEY(group_id) REFERENCES groups (id), 
	CONSTRAINT fk_deployments_previous_group_id FOREIGN KEY(previous_group_id) REFERENCES groups (id), 
	CONSTRAINT fk_deployments_wanted_group_id FOREIGN KEY(wanted_group_id) REFERENCES groups (id)
);
INSERT INTO "deployments" VALUES('gateway','http://127.0.0.1:8000','{"deploymentType": "MODEL_GROUP"}','ACTIVE','ocid1.datasciencemodelgroup.oc1.local.00000000000000000000000000000001',NULL,'ocid1.datasciencemodelgroup.oc1.local.00000000000000000000000000000001',NULL,NULL,NULL,'{"ocid1.datasciencemodel.oc1.local.00000000000000000000000000000001": {"state": "SUCCESS", "message": ""}}','ocid1.datascienceproject.oc1.local.00000000000000000000000000000001','ocid1.datasciencemodeldeployment.oc1.local.00000000000000000000000000000001','ocid1.compartment.oc1..comp','datasciencemodeldeployment Ü 1',NULL,'ACTIVE','','local','2026-11-25 08:30:00.123000','2026-11-25 08:30:00.123000',1,'{"team": "it''s"}','{"space": {"key": 1}}','{"category": "USER"}');
CREATE TABLE group_members (
	group_id VARCHAR(255) NOT NULL, 
	position INTEGER NOT NULL, 
	inference_key VARCHAR(255), 
	model_id VARCHAR(255) NOT NULL, 
	unused JSON NOT NULL, 
	CONSTRAINT pk_group_members PRIMARY KEY (group_id, position), 
	CONSTRAINT fk_group_members_group_id FOREIGN KEY(group_id) REFERENCES groups (id) ON DELETE CASCADE, 
	CONSTRAINT fk_group_members_model_id FOREIGN KEY(model_id) REFERENCES models (id), 
	CONSTRAINT uq_group_members_group_id_inference_key UNIQUE (group_id, inference_key)
);
INSERT INTO "group_members" VALUES('ocid1.datasciencemodelgroup.oc1.local.00000000000000000000000000000001',0,'base','ocid1.datasciencemodel.oc1.local.00000000000000000000000000000001','{}');
INSERT INTO "group_members" VALUES('ocid1.datasciencemodelgroup.oc1.local.00000000000000000000000000000001',1,'a','ocid1.datasciencemodel.oc1.local.00000000000000000000000000000002','{}');
CREATE TABLE groups (
	type VARCHAR(255) NOT NULL, 
	base_model_id VARCHAR(255), 
	custom_metadata JSON NOT NULL, 
	history_id VARCHAR(255), 
	version_id INTEGER NOT NULL, 
	version_label VARCHAR(255), 
	create_type VARCHAR(255) NOT NULL, 
	source_group_id VARCHAR(255), 
	artifact_digest VARCHAR(64), 
	project_id VARCHAR(255) NOT NULL, 
	id VARCHAR(255) NOT NULL, 
	compartment_id VARCHAR(255) NOT NULL, 
	display_name VARCHAR(255) NOT NULL, 
	description TEXT, 
	lifecycle_state VARCHAR(255) NOT NULL, 
	lifecycle_details TEXT NOT NULL, 
	created_by VARCHAR(255) NOT NULL, 
	time_created DATETIME NOT NULL, 
	time_updated DATETIME NOT NULL, 
	revision INTEGER NOT NULL, 
	freeform_tags JSON NOT NULL, 
	defined_tags JSON NOT NULL, 
	unused JSON NOT NULL, 
	CONSTRAINT pk_groups PRIMARY KEY (id), 
	CONSTRAINT fk_groups_artifact_digest FOREIGN KEY(artifact_digest) REFERENCES artifacts (digest), 
	CONSTRAINT fk_groups_history_id FOREIGN KEY(history_id) REFERENCES version_histories (id), 
	CONSTRAINT uq_groups_history_id_version_id UNIQUE (history_id, version_id)
);
INSERT INTO "groups" VALUES('STACKED','ocid1.datasciencemodel.oc1.local.00000000000000000000000000000001','[{"key": "k", "value": "v"}]','ocid1.datasciencemodelgroupversionhistory.oc1.local.00000000000000000000000000000001',1,NULL,'CREATE',NULL,NULL,'ocid1.datascienceproject.oc1.local.00000000000000000000000000000001','ocid1.datasciencemodelgroup.oc1.local.00000000000000000000000000000001','ocid1.compartment.oc1..comp','datasciencemodelgroup Ü 1',NULL,'ACTIVE','','local','2026-11-25 08:30:00.123000','2026-11-25 08:30:00.123000',1,'{"team": "it''s"}','{"space": {"key": 1}}','{"category": "USER"}');
CREATE TABLE model_version_sets (
	latest_version INTEGER NOT NULL, 
	project_id VARCHAR(255) NOT NULL, 
	id VARCHAR(255) NOT NULL, 
	compartment_id VARCHAR(255) NOT NULL, 
	display_name VARCHAR(255) NOT NULL, 
	description TEXT, 
	lifecycle_state VARCHAR(255) NOT NULL, 
	lifecycle_details TEXT NOT NULL, 
	created_by VARCHAR(255) NOT NULL, 
	time_created DATETIME NOT NULL, 
	time_updated DATETIME NOT NULL, 
	revision INTEGER NOT NULL, 
	freeform_tags JSON NOT NULL, 
	defined_tags JSON NOT NULL, 
	unused JSON NOT NULL, 
	CONSTRAINT pk_model_version_sets PRIMARY KEY (id)
);
INSERT INTO "model_version_sets" VALUES(1,'ocid1.datascienceproject.oc1.local.00000000000000000000000000000001','ocid1.datasciencemodelversionset.oc1.local.00000000000000000000000000000001','ocid1.compartment.oc1..comp','datasciencemodelversionset Ü 1',NULL,'ACTIVE','','local','2026-11-25 08:30:00.123000','2026-11-25 08:30:00.123000',1,'{"team": "it''s"}','{"space": {"key": 1}}','{"category": "USER"}');
CREATE TABLE models (
	artifact_digest VARCHAR(64), 
	custom_metadata JSON NOT NULL, 
	defined_metadata JSON NOT NULL, 
	version_set_id VARCHAR(255), 
	version_id INTEGER, 
	version_label VARCHAR(255), 
	project_id VARCHAR(255) NOT NULL, 
	id VARCHAR(255) NOT NULL, 
	compartment_id VARCHAR(255) NOT NULL, 
	display_name VARCHAR(255) NOT NULL, 
	description TEXT, 
	lifecycle_state VARCHAR(255) NOT NULL, 
	lifecycle_details TEXT NOT NULL, 
	created_by VARCHAR(255) NOT NULL, 
	time_created DATETIME NOT NULL, 
	time_updated DATETIME NOT NULL, 
	revision INTEGER NOT NULL, 
	freeform_tags JSON NOT NULL, 
	defined_tags JSON NOT NULL, 
	unused JSON NOT NULL, 
	CONSTRAINT pk_models PRIMARY KEY (id), 
	CONSTRAINT fk_models_artifact_digest FOREIGN KEY(artifact_digest) REFERENCES artifacts (digest), 
	CONSTRAINT fk_models_version_set_id FOREIGN KEY(version_set_id) REFERENCES model_version_sets (id)
);
INSERT INTO "models" VALUES('abababababababababababababababababababababababababababababababab','[]','[]',NULL,NULL,NULL,'ocid1.datascienceproject.oc1.local.00000000000000000000000000000001','ocid1.datasciencemodel.oc1.local.00000000000000000000000000000001','ocid1.compartment.oc1..comp','datasciencemodel Ü 1',NULL,'ACTIVE','','local','2026-11-25 08:30:00.123000','2026-11-25 08:30:00.123000',1,'{"team": "it''s"}','{"space": {"key": 1}}','{"category": "USER"}');
INSERT INTO "models" VALUES(NULL,'[]','[]','ocid1.datasciencemodelversionset.oc1.local.00000000000000000000000000000001',1,'a','ocid1.datascienceproject.oc1.local.00000000000000000000000000000001','ocid1.datasciencemodel.oc1.local.00000000000000000000000000000002','ocid1.compartment.oc1..comp','datasciencemodel Ü 2',NULL,'ACTIVE','','local','2026-11-25 08:30:00.123000','2026-11-25 08:30:00.123000',1,'{"team": "it''s"}','{"space": {"key": 1}}','{"category": "USER"}');
CREATE TABLE projects (
	id VARCHAR(255) NOT NULL, 
	compartment_id VARCHAR(255) NOT NULL, 
	display_name VARCHAR(255) NOT NULL, 
	description TEXT, 
	lifecycle_state VARCHAR(255) NOT NULL, 
	lifecycle_details TEXT NOT NULL, 
	created_by VARCHAR(255) NOT NULL, 
	time_created DATETIME NOT NULL, 
	time_updated DATETIME NOT NULL, 
	revision INTEGER NOT NULL, 
	freeform_tags JSON NOT NULL, 
	defined_tags JSON NOT NULL, 
	unused JSON NOT NULL, 
	CONSTRAINT pk_projects PRIMARY KEY (id)
);
INSERT INTO "projects" VALUES('ocid1.datascienceproject.oc1.local.00000000000000000000000000000001','ocid1.compartment.oc1..comp','datascienceproject Ü 1',NULL,'ACTIVE','','local','2026-11-25 08:30:00.123000','2026-11-25 08:30:00.123000',1,'{"team": "it''s"}','{"space": {"key": 1}}','{"category": "USER"}');
CREATE TABLE retry_tokens (
	token VARCHAR(255) NOT NULL, 
	body_sha256 VARCHAR(64) NOT NULL, 
	status INTEGER NOT NULL, 
	headers JSON NOT NULL, 
	body TEXT NOT NULL, 
	time_created DATETIME NOT NULL, 
	CONSTRAINT pk_retry_tokens PRIMARY KEY (token)
);
INSERT INTO "retry_tokens" VALUES('t','abababababababababababababababababababababababababababababababab',200,'{}','{}','2026-11-25 08:30:00.123000');
CREATE TABLE version_histories (
	latest_group_id VARCHAR(255), 
	latest_version INTEGER NOT NULL, 
	project_id VARCHAR(255) NOT NULL, 
	id VARCHAR(255) NOT NULL, 
	compartment_id VARCHAR(255) NOT NULL, 
	display_name VARCHAR(255) NOT NULL, 
	description TEXT, 
	lifecycle_state VARCHAR(255) NOT NULL, 
	lifecycle_details TEXT NOT NULL, 
	created_by VARCHAR(255) NOT NULL, 
	time_created DATETIME NOT NULL, 
	time_updated DATETIME NOT NULL, 
	revision INTEGER NOT NULL, 
	freeform_tags JSON NOT NULL, 
	defined_tags JSON NOT NULL, 
	unused JSON NOT NULL, 
	CONSTRAINT pk_version_histories PRIMARY KEY (id)
);
INSERT INTO "version_histories" VALUES(NULL,1,'ocid1.datascienceproject.oc1.local.00000000000000000000000000000001','ocid1.datasciencemodelgroupversionhistory.oc1.local.00000000000000000000000000000001','ocid1.compartment.oc1..comp','datasciencemodelgroupversionhistory Ü 1',NULL,'ACTIVE','','local','2026-11-25 08:30:00.123000','2026-11-25 08:30:00.123000',1,'{"team": "it''s"}','{"space": {"key": 1}}','{"category": "USER"}');
CREATE TABLE work_request_lines (
	number INTEGER NOT NULL, 
	work_request_id VARCHAR(255) NOT NULL, 
	code VARCHAR(255), 
	message TEXT NOT NULL, 
	time DATETIME NOT NULL, 
	CONSTRAINT pk_work_request_lines PRIMARY KEY (number), 
	CONSTRAINT fk_work_request_lines_work_request_id FOREIGN KEY(work_request_id) REFERENCES work_requests (id) ON DELETE CASCADE
);
INSERT INTO "work_request_lines" VALUES(1,'ocid1.datascienceworkrequest.oc1.local.1',NULL,'line
of two','2026-11-25 08:30:00.123000');
CREATE TABLE work_requests (
	id VARCHAR(255) NOT NULL, 
	operation_type VARCHAR(255) NOT NULL, 
	status VARCHAR(255) NOT NULL, 
	compartment_id VARCHAR(255) NOT NULL, 
	resource_id VARCHAR(255) NOT NULL, 
	entity_type VARCHAR(255) NOT NULL, 
	action_type VARCHAR(255) NOT NULL, 
	percent_complete DOUBLE NOT NULL, 
	time_accepted DATETIME NOT NULL, 
	time_started DATETIME, 
	time_finished DATETIME, 
	revision INTEGER NOT NULL, 
	CONSTRAINT pk_work_requests PRIMARY KEY (id)
);
INSERT INTO "work_requests" VALUES('ocid1.datascienceworkrequest.oc1.local.1','MODEL_DEPLOYMENT_CREATE','SUCCEEDED','ocid1.compartment.oc1..comp','ocid1.datasciencemodeldeployment.oc1.local.00000000000000000000000000000001','deployments','CREATED',100.0,'2026-11-25 08:30:00.123000',NULL,NULL,1);
CREATE INDEX ix_model_version_sets_compartment_id ON model_version_sets (compartment_id);
CREATE INDEX ix_model_version_sets_project_id ON model_version_sets (project_id);
CREATE INDEX ix_model_version_sets_time_created ON model_version_sets (time_created);
CREATE INDEX ix_projects_compartment_id ON projects (compartment_id);
CREATE INDEX ix_projects_time_created ON projects (time_created);
CREATE INDEX ix_retry_tokens_time_created ON retry_tokens (time_created);
CREATE INDEX ix_version_histories_compartment_id ON version_histories (compartment_id);
CREATE INDEX ix_version_histories_project_id ON version_histories (project_id);
CREATE INDEX ix_version_histories_time_created ON version_histories (time_created);
CREATE INDEX ix_work_requests_compartment_id ON work_requests (compartment_id);
CREATE INDEX ix_work_requests_resource_id ON work_requests (resource_id);
CREATE INDEX ix_work_requests_time_accepted ON work_requests (time_accepted);
CREATE INDEX ix_groups_base_model_id ON groups (base_model_id);
CREATE INDEX ix_groups_compartment_id ON groups (compartment_id);
CREATE INDEX ix_groups_project_id ON groups (project_id);
CREATE INDEX ix_groups_time_created ON groups (time_created);
CREATE INDEX ix_models_artifact_digest ON models (artifact_digest);
CREATE INDEX ix_models_compartment_id ON models (compartment_id);
CREATE INDEX ix_models_project_id ON models (project_id);
CREATE INDEX ix_models_time_created ON models (time_created);
CREATE INDEX ix_models_version_set_id ON models (version_set_id);
CREATE INDEX ix_work_request_lines_work_request_id ON work_request_lines (work_request_id);
CREATE INDEX ix_deployments_compartment_id ON deployments (compartment_id);
CREATE INDEX ix_deployments_gateway ON deployments (gateway);
CREATE INDEX ix_deployments_group_id ON deployments (group_id);
CREATE INDEX ix_deployments_project_id ON deployments (project_id);
CREATE INDEX ix_deployments_time_created ON deployments (time_created);
CREATE INDEX ix_deployments_wanted_group_id ON deployments (wanted_group_id);
CREATE INDEX ix_group_members_model_id ON group_members (model_id);
COMMIT;
